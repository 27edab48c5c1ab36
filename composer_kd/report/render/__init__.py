"""How a report looks: tables, text, the page and its pictures, whatever the sections are."""
