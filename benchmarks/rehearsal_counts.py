COUNTS = {}
RULES = {}
