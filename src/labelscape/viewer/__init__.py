"""A finished map in the browser: a server on this machine (`serve`), and the page that it shows."""
