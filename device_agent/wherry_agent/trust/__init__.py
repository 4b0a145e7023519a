"""What is released and who may order: TUF, orders and floors."""
