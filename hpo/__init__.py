"""The service: the command line, the whole job, the search and its workers, the pruner, the report."""
