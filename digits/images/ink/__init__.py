"""Ink: separation of the ink of one digit from its paper, for the normalization.

- `paper`: polarity of the ink, level of the paper at each pixel, strength of the ink
- `parts`: sheets, frames, and the connected parts of the ink that are the digit
- `reflections`: bright spots that erase a part of the ink, and bridges across them
- `regions`: areas that ink encloses: hollow strokes, and boxes that the digit crosses
"""
