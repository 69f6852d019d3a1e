"""Plant faults and benign changes in real models, and see what each test strategy finds."""
