"""PostgreSQL: the server, connections, our tables, leases and stop requests of workers, backups."""
