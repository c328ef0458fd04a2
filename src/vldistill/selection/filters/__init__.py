"""The filters, one file each: a function of the pairs that returns a value of every image or caption."""
