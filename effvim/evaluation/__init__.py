"""Error analysis and the HTML report of an evaluation."""
