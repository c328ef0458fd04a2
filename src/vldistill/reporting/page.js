"use strict";
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, settings = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(settings)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children); // strings become text, never markup
    return element;
  };
  const plain = (text) => text.normalize("NFC").toLowerCase();
  const wordsOf = (field) => plain(field.value).split(/\s+/).filter(Boolean);
  const natural = new Intl.Collator(undefined, { numeric: true }).compare;

  // Theme: the system's until the reader chooses.
  const theme = one("#theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => { theme.textContent = dark() ? "Light theme" : "Dark theme"; };
  try {
    const kept = localStorage.getItem("vldistill-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch { /* storage may be closed to files */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("vldistill-theme", root.dataset.theme); } catch { /* as above */ }
    showTheme();
  });
  system.addEventListener("change", showTheme);
  theme.hidden = false;
  showTheme();

  // Tables: a click on a column sorts by it, a second one turns the order.
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => one("button", head).addEventListener("click", () => {
      const number = head.classList.contains("number");
      const was = head.getAttribute("aria-sort");
      const up = was === "none" ? !number : was === "descending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.sort;
      const rows = all("tbody tr", table).sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        return (up ? 1 : -1) * (number ? Number(x) - Number(y) : natural(x, y));
      });
      one("tbody", table).append(...rows);
    }));
  }

  // Where the reader is.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === first) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-16px 0px -45% 0px" });
  for (const section of all("main section")) watcher.observe(section);

  // Enlarging: one dialog; the pictures it shows are set when it opens.
  const dialog = one("#large");
  let walk = [];
  let place = 0;
  const showLarge = () => {
    const { title, body } = walk[place]();
    one("#large-title").textContent = title;
    one("#large-body").replaceChildren(...body);
    one("#previous").disabled = place === 0;
    one("#next").disabled = place === walk.length - 1;
    dialog.scrollTop = 0;
  };
  const enlarge = (views, index) => {
    [walk, place] = [views, index];
    showLarge();
    dialog.showModal();
    one("#close").focus();
  };
  const step = (by) => {
    if (place + by < 0 || place + by >= walk.length) return;
    place += by;
    showLarge();
  };
  one("#previous").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  one("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // Gallery.
  const sets = all(".set").map((element) => ({ element, cards: all(".pair", element) }));
  const pairView = (card) => () => {
    const shots = make("div", { class: one(".shots", card).className });
    shots.append(...all(".shot", card).map((shot) => shot.cloneNode(true)));
    const more = one(".more", card).cloneNode(true);
    more.hidden = false;
    const body = [shots, one(".captions", card).cloneNode(true)];
    if (more.children.length) body.push(more);
    return { title: `Pair ${card.dataset.number}, ${one("h3", card.closest(".set")).textContent}`, body };
  };
  if (sets.length) {
    const [filter, order, direction, choice] = ["#filter", "#order", "#direction", "#set"].map((id) => one(id));
    let up = true;
    for (const { cards } of sets) {
      for (const card of cards) card.words = plain(`${card.dataset.number} ${all("dd, .more", card).map((e) => e.textContent).join(" ")}`);
    }
    const key = (card) => (order.value === "caption" ? one("dd", card)?.textContent ?? "" : card.dataset[order.value]);
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return (up ? 1 : -1) * (order.value === "caption" ? natural(x, y) : Number(x) - Number(y));
    };
    const update = () => {
      const words = wordsOf(filter);
      sets.forEach(({ element, cards }, index) => {
        element.hidden = choice !== null && Number(choice.value) !== index;
        if (element.hidden) return;
        const sorted = [...cards].sort(compare);
        one(".pairs", element).append(...sorted);
        sorted.forEach((card, at) => { // a class begins a new row
          const begins = order.value === "group" && card.dataset.group !== sorted[at - 1]?.dataset.group;
          card.classList.toggle("first", begins);
        });
        for (const card of cards) card.hidden = !words.every((word) => card.words.includes(word));
        const count = cards.filter((card) => !card.hidden).length;
        one("#shown").textContent = count === cards.length ? `${count} pairs` : `${count} of ${cards.length} pairs`;
        one("#nothing").hidden = count > 0;
      });
    };
    const showDirection = () => {
      direction.textContent = up ? "↑" : "↓";
      direction.setAttribute("aria-label", up ? "Ascending: reverse the order" : "Descending: reverse the order");
    };
    filter.addEventListener("input", update);
    order.addEventListener("change", () => {
      up = ["group", "number", "caption"].includes(order.value); // changes: the largest first
      showDirection();
      update();
    });
    direction.addEventListener("click", () => { up = !up; showDirection(); update(); });
    choice?.addEventListener("change", update);
    one("#clear").addEventListener("click", () => { filter.value = ""; update(); filter.focus(); });
    for (const { element } of sets) {
      element.addEventListener("click", (event) => {
        const card = event.target.closest(".shots")?.closest(".pair");
        if (!card) return;
        const shown = all(".pair", element).filter((other) => !other.hidden);
        enlarge(shown.map(pairView), shown.indexOf(card));
      });
    }
    one("#gallery .tools").hidden = false;
    update();
  }

  // Retrieval browser.
  const PAGE = 8;
  for (const box of all(".browser")) {
    const source = one("script", box);
    if (!source) continue;
    const { students, images, captions, byCaption, byImage } = JSON.parse(source.textContent);
    const queries = { byCaption, byImage };
    let limit = PAGE;
    const photoView = (row) => () => {
      const [name, picture, own] = images[row];
      const list = make("ol", {}, ...own.map((caption) => make("li", { dir: "auto" }, captions[caption])));
      const side = make("div", { class: "near" }, make("h4", {}, "Its captions"), list);
      return { title: name, body: [make("div", { class: "alone" }, image(row), side)] };
    };
    const image = (row, alt = "") => {
      if (!images[row][1]) return make("span", { class: "named", dir: "auto" }, images[row][0]);
      const picture = make("img", { src: images[row][1], alt });
      const sharpen = () => { if (picture.naturalWidth && picture.naturalWidth <= 64) picture.classList.add("sharp"); };
      picture.addEventListener("load", sharpen);
      return picture;
    };
    const thumb = (rows, index, right) => {
      const [name] = images[rows[index]];
      const button = make("button", {
        type: "button", class: "thumb", "aria-haspopup": "dialog",
        "aria-label": `${right ? "Right: " : ""}${name}, enlarge`,
        onclick: () => enlarge(rows.map(photoView), index),
      }, image(rows[index]));
      if (right) button.append(make("span", { class: "mark", "aria-hidden": "true" }, "✓"));
      return button;
    };
    const answer = (way, hits, rank, student) => {
      const found = make("span", {}, rank <= 5 ? `rank ${rank}` : `rank ${rank.toLocaleString("en")}`);
      const who = make("p", { class: "who" }, make("b", {}, students[student]), found);
      const rows = hits.map(([row]) => row);
      const items = hits.map(([row, right], index) => {
        const settings = right ? { class: "right" } : {};
        if (way === "byCaption") return make("li", settings, thumb(rows, index, right));
        const text = make("span", { dir: "auto" }, captions[row]);
        return make("li", settings, text, ...(right ? [make("span", { class: "hidden" }, " (right)")] : []));
      });
      return make("div", {}, who, make("ol", { class: way === "byCaption" ? "top5" : "texts" }, ...items));
    };
    const card = (way, query) => {
      const ask = make("p", { class: "ask" });
      if (way === "byCaption") ask.append(thumb([query.own], 0, false), make("span", { dir: "auto" }, captions[query.q]));
      else ask.append(thumb([query.q], 0, false));
      const answers = query.a.map((hits, student) => answer(way, hits, query.r[student], student));
      return make("article", { class: way === "byImage" ? "query photo" : "query" }, ask, make("div", { class: "answers" }, ...answers));
    };
    const wordsIn = (way, query) => plain(
      way === "byCaption" ? captions[query.q] : images[query.q][2].map((caption) => captions[caption]).join(" "),
    );
    const differ = (query) => new Set(query.r.map((rank) => rank <= 5)).size > 1;
    const update = () => {
      const way = one("input[type=radio]:checked", box).value;
      const words = wordsOf(one(".words", box));
      const onlyDiffering = one(".differ", box).checked;
      const found = queries[way].filter((query) => {
        const text = wordsIn(way, query);
        return words.every((word) => text.includes(word)) && (!onlyDiffering || differ(query));
      });
      one(".queries", box).replaceChildren(...found.slice(0, limit).map((query) => card(way, query)));
      const kind = way === "byCaption" ? "captions" : "photos";
      const total = queries[way].length;
      one(".count", box).textContent = found.length === total ? `${total} ${kind}` : `${found.length} of ${total} ${kind}`;
      one(".further", box).hidden = found.length <= limit;
    };
    const fromTop = () => { limit = PAGE; update(); };
    for (const control of all("input", box)) control.addEventListener("input", fromTop);
    one(".further", box).addEventListener("click", () => {
      const first = limit;
      limit += PAGE;
      update();
      one("button", all(".query", box)[first])?.focus();
    });
    update();
  }

  // Copying, and paper.
  for (const box of all(".copyable")) {
    if (!navigator.clipboard) break;
    const button = make("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(one("pre", box).textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(one("pre", box));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
  addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });
})();
