"""All pieces of the atlas, by name."""
from benchmarks.atlas import digits_pieces, optimizer_pieces, teacher_pieces, text_pieces

PIECES = {**optimizer_pieces.PIECES, **digits_pieces.PIECES, **teacher_pieces.PIECES, **text_pieces.PIECES}
