"""Which channels are coupled: analysis, groups, removal, targets of refits, and the check of a result."""
