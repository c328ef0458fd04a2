"""The methods, one file each: a class and its registration. The registry imports every file here."""
