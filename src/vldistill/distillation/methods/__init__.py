"""The methods, one file each: a class registered with what it says of itself. The registry imports every file here."""
