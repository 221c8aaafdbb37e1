"""The service: command line, job, search, workers, results, status, dashboard and report."""
