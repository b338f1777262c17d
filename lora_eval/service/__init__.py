"""What the WebUI's tabs, the REST routes and the command line share: jobs, requests, and the runs on disk."""
