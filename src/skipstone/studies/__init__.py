"""What writes the tables of docs/. Nothing imports it but the scripts."""
