"""Executors: all ranks of one model behind one interface, in this process or in processes of their own."""
