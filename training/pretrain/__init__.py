"""The mini's own parts, each trained from nothing: tokenizer of pictures, CLIP, SAM and text-to-picture base."""
