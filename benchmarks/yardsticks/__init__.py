"""Problems whose figures are published: their simulations, networks, budgets and measures."""
