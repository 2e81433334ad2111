"""What public objects have in common: equality by fields, answers to names of other packages."""

from jvpsvd.records.equality import ComparedByFields
from jvpsvd.records.missing_attributes import AnswersOtherNames

__all__ = ["AnswersOtherNames", "ComparedByFields"]
