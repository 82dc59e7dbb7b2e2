"""The DDIM paper's tables from one finished model: which cells, sampled and measured in which parts, kept where."""

from skipstone.tables.ledger import Ledger, carry_out
from skipstone.tables.parts import Part, Tables

__all__ = ["Ledger", "Part", "Tables", "carry_out"]
