"""The demo subject: a synthetic person, drawn by our own code, written as a tracked data set.

`python -m data.demo --out FOLDER` or `data.demo.generate.generate`. The pipeline: `landmarks` and `atlas` say where
things lie, `skin` paints, `strands` grows hair, `subject` gathers the person, `motion` lets it speak and look around,
`shading`, `hair` and `render` draw a frame, `layout` and `generate` write the data set.
"""
