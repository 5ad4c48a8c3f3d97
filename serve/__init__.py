"""What will run in Ray Serve replicas: student, ranker and the adaptive ingress. Empty as yet."""
