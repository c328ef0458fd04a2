"""Pictures: contact sheets, curves, lettering."""
