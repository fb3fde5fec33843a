"""From records to tables, figures and a report; reads `gradhorizon.records` and `gradhorizon.theory` alone."""
