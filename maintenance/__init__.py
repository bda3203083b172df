"""What only a checkout needs: the generated tables of the documentation and the benchmark page."""
