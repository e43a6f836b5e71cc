"""Makes what a security office asks for before it installs something. Run as `python -m release`, by `make release`."""
