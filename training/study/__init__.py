"""`study`: nine questions about the method, each answered by the mini with pictures, figures and an explicit rule."""
