"""The study of quality against evaluations: every solver on its best schedule, beside what is published."""
