from cordboard.cli import main

main()
