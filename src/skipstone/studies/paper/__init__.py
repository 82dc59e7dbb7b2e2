"""The DDIM paper's tables from one finished model: which cells, sampled and measured in which parts, kept where."""

from skipstone.studies.paper.ledger import Ledger, carry_out
from skipstone.studies.paper.parts import Part, Tables

__all__ = ["Ledger", "Part", "Tables", "carry_out"]
