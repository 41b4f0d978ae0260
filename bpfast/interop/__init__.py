"""Conversion of networks from and to other libraries; each needs its library only when it is imported."""
