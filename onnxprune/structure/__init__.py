"""What is coupled to what: analysis, groups, removal, fit targets, and the check of a result."""
