"""The only place with SQL: a project's database, and the files its rows name."""
