"""Plans in the forms of other attention libraries, one module per form."""
