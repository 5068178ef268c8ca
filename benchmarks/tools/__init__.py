"""Tables of the pages, and the sweep over timm."""
