"""The web page of `effvim demo`; needs gradio."""
