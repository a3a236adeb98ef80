"""The quickstart: real jobs under one memory capacity, alone, as plain processes and under tide."""
