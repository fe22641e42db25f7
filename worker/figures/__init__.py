"""How figures look, in reports and on the web page: axes, plots as SVG, and values in words.

figures.css has the colours and what plots, legends and tables look like.
"""
