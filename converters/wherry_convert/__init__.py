"""From a trained model to a graph that decides the same: convert, quantize, compare.

    sources.load_source -> SourceModel -- to_onnx.convert --> Converted -- quantize --> Converted
                                │                                │
                                └─ scores (float64) ── parity ── scoring.Scored

One file for each framework lies in `sources/`. Each brings its models down to one of two
neutral forms: a `Forest`, whose graph is written here so that every path is exact, or a
`Network`, a graph by the framework's own converter. `tflite_convert.convert_tflite` writes
either as a TFLite file instead. A model that would convert silently
wrong is refused with K01 or K02 and the cure.
"""
