"""Where shards lie: folders, web servers, object stores, commands; none of it needs torch or numpy."""
