"""Seeds side by side: several networks of one form, trained as one."""
