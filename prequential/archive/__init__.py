"""A `.pq` archive on disk, atomic files, the packed decoder, the runnable form."""
