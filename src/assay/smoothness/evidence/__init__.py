"""Whether tracks of numbers have kinks: kink energy over scales, its calibration, and what else looks like it.

`statistic` measures, `calibration` gives p-values, `confounders` names rival explanations, `verdict` puts them
together, `tracks` reads files, `combination` joins several tracks.
"""
