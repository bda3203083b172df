"""The command lines: parse, call, print. The only package that knows argparse."""
