"""What finished runs say: levels compared, all else held equal, in tables, sentences and pictures. No torch, no lightning."""
