"""What `curate` is made of: sources of (picture, caption), filters, and shards that are written once."""
