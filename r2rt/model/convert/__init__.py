"""From a published checkpoint and CLIP's weights to a bundle, with NumPy and ONNX Runtime alone.

`archive` and `weights` read the files, `folds` computes what the graphs hold from them, `template`
puts that into graphs that were exported once, `reference` is the model in plain NumPy, and
`convert` does all of it and checks the result.
"""
