"""The HTTP interface: schemas, routes and error bodies."""
