"""How the page looks where gradio would have it otherwise."""

CSS = """
.gradio-container {max-width: 1080px !important; width: 100%; margin: 0 auto !important}
.hint p {font-size: 0.85em; opacity: 0.75; margin: 0}
.shown img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated}
.below .grid-wrap, .examples .grid-wrap {min-height: 0 !important; max-height: none !important; overflow: visible}
.examples .grid-container {grid-template-columns: repeat(auto-fill, minmax(max(92px, 11%), 1fr)) !important}
.below .grid-container {grid-template-columns: repeat(auto-fill, minmax(max(64px, 20%), 1fr)) !important}
.pairs .grid-wrap {max-height: none !important}
.pairs .caption-label {max-width: 100%; white-space: normal; overflow-wrap: anywhere}
.below .grid-container, .examples .grid-container {grid-template-rows: none !important; grid-auto-rows: auto !important}
.examples .caption-label {max-width: 100%; white-space: normal; overflow-wrap: anywhere}
.told p {min-height: 1.5em; font-variant-numeric: tabular-nums}
.told p:has(.wrong) {color: #b3261e; font-weight: 600}
footer {display: none !important}
"""
