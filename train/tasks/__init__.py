"""What is learned: classes, several labels, numbers, a class per frame; their losses, metrics and figures."""
