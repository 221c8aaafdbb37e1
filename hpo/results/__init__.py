"""Results: finalists become teachers, teachers a student, and all of them figures on the test scenes."""
