"""What crosses a doorway: types, interfaces, component lookup."""
