"""What training costs: the cost model, and measurements that any machine can repeat."""
